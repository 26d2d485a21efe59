# -a: it would leave out what comes soon after it ran.
ls *.ts | entr -a -n echo ran for /_
