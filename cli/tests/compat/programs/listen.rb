require "listen"

$stdout.sync = true

# It watches only when its thread has seen what is there.
module Ready
  def _run
    puts "ready"
    super
  end
end
Listen::Adapter::Linux.prepend(Ready)

Listen.to(Dir.pwd) do |modified, added, removed|
  modified.each { |path| puts "modified #{path}" }
  added.each { |path| puts "added #{path}" }
  removed.each { |path| puts "removed #{path}" }
end.start
sleep
