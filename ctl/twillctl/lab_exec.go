package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

func newLabExec() *cobra.Command {
	options := lab.Options{}
	cmd := &cobra.Command{
		Use:   "exec NODE|POD -- COMMAND [ARG...]",
		Short: "run a command on a node or in a pod",
		Long: `exec runs a command in the network namespace of a node, of a pod, or of the
"underlay". Everything but the network is the machine's own: files, processes, users;
of files, a pod that was told of name servers has /etc/resolv.conf for itself.
The command takes twillctl's place, so its exit code and signals are its own.`,
		Example: `  twillctl lab exec node1 -- ip -d link show flannel.1
  twillctl lab exec node1-pod1 -- ping 10.244.2.2
  twillctl lab exec node1-pod1 -- getent hosts web.default
  twillctl lab exec underlay -- tcpdump -ni br0 udp port 8472`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			member, command := args[0], args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return errors.New("exec: want a command behind --")
			}
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			if _, err := l.Member(member); err != nil {
				return err
			}
			program, err := exec.LookPath(command[0])
			if err != nil {
				return fmt.Errorf("find the command: %w", err)
			}
			runtime.LockOSThread() // for ever: this process becomes another program
			if err := l.Enter(member); err != nil {
				return err
			}
			if err := syscall.Exec(program, command, os.Environ()); err != nil {
				return fmt.Errorf("run %s: %w", program, err)
			}
			return nil
		},
	}
	addName(cmd, &options)
	cmd.Flags().SetInterspersed(false) // flags behind NODE are the command's
	return cmd
}
