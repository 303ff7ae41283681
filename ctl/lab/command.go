package lab

import (
	"context"
	"os/exec"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// Cmd is an exec.Cmd whose process lives in a namespace of the lab. The methods that start it are its own, since a process gets the
// namespace of the thread that starts it; everything else is exec.Cmd's.
type Cmd struct {
	*exec.Cmd
	ns netns.Namespace
}

// Command returns a command that will run inside the namespace.
func Command(ctx context.Context, ns netns.Namespace, name string, args ...string) *Cmd {
	return &Cmd{Cmd: exec.CommandContext(ctx, name, args...), ns: ns}
}

// Start starts the command; see exec.Cmd.Start.
func (c *Cmd) Start() error { return c.ns.Do(c.Cmd.Start) }

// Run starts the command and waits for it; see exec.Cmd.Run.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it printed; see exec.Cmd.Output.
func (c *Cmd) Output() (out []byte, err error) {
	err = c.ns.Do(func() error {
		out, err = c.Cmd.Output()
		return err
	})
	return out, err
}

// CombinedOutput runs the command and returns what it printed on both streams; see exec.Cmd.CombinedOutput.
func (c *Cmd) CombinedOutput() (out []byte, err error) {
	err = c.ns.Do(func() error {
		out, err = c.Cmd.CombinedOutput()
		return err
	})
	return out, err
}
