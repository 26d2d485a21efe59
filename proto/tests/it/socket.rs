use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use agentfs_proto::socket::{
    SocketPathError, check, is_project_name, path_for, prepare, project_path,
};

#[test]
fn the_variable_wins_over_the_runtime_directory_over_tmp() {
    let named = path_for(Some("/a/b.sock".into()), Some("/run/user/7".into()), 7);
    assert_eq!(named, Path::new("/a/b.sock"));
    let runtime = path_for(Some("".into()), Some("/run/user/7".into()), 7);
    assert_eq!(runtime, Path::new("/run/user/7/agentfs/control.sock"));
    for unusable in [None, Some("".into()), Some("relative".into())] {
        assert_eq!(
            path_for(None, unusable, 7),
            Path::new("/tmp/agentfs-7/control.sock")
        );
    }
}

#[test]
fn a_directory_is_made_for_its_user_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("agentfs/control.sock");
    prepare(&path).unwrap();
    prepare(&path).unwrap();
    let mode = std::fs::metadata(path.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_directory_that_others_could_fill_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let open = tmp.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = prepare(&open.join("control.sock"));
    assert!(matches!(
        refused,
        Err(SocketPathError::Mode { mode: 0o755, .. })
    ));

    let safe = tmp.path().join("safe");
    prepare(&safe.join("control.sock")).unwrap();
    let link = tmp.path().join("link");
    symlink(&safe, &link).unwrap();
    let refused = check(&link.join("control.sock"));
    assert!(matches!(refused, Err(SocketPathError::NotADirectory(_))));
}

#[test]
fn a_path_too_long_for_a_socket_is_named() {
    let path = Path::new("/tmp").join("x".repeat(200));
    let error = prepare(&path).unwrap_err();
    assert!(matches!(error, SocketPathError::TooLong(_)));
    assert!(error.to_string().contains("AGENTFS_SOCKET"), "{error}");
}

#[test]
fn each_directory_has_a_socket_of_its_own_beside_the_default_one() {
    let default = Path::new("/run/user/7/agentfs/control.sock");
    let of = |path: &str, device, inode| project_path(default, path.as_ref(), device, inode);
    let socket = of("/home/me/project", 2049, 131_073);
    // A later version must find the daemon of an earlier one.
    let expected = "/run/user/7/agentfs/project-131cfdd7eb18ca20.sock";
    assert_eq!(socket.to_str(), Some(expected));
    assert!(is_project_name(socket.file_name().unwrap()));
    assert!(!is_project_name(default.file_name().unwrap()));
    assert!(!is_project_name("project-0.sock.lock".as_ref()));
    for other in [
        of("/home/me/moved", 2049, 131_073),
        of("/home/me/project", 2050, 131_073),
        of("/home/me/project", 2049, 131_074),
    ] {
        assert_ne!(other, socket);
    }
}
