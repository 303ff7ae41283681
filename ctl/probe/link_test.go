package probe

import "os/exec"

// loopbackUp sets lo of the calling thread's namespace up.
func loopbackUp() error { return exec.Command("ip", "link", "set", "lo", "up").Run() }
