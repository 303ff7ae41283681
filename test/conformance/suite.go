package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// runTests runs the tests and returns nil when they have come to an end, whatever came of them: the report says that.
func runTests(ctx context.Context, o options, s *kubetest.Site, backend, dir string) error {
	log, err := os.Create(filepath.Join(dir, "ginkgo.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	program := func(name string) string { return filepath.Join(o.programs, name) }
	args := []string{"--net=" + s.Control.Namespace, "--", program("ginkgo"), "run", "--no-color", "-v",
		fmt.Sprintf("--procs=%d", o.processes), "--timeout=" + o.timeout.String(), "--focus=" + o.focus}
	for _, e := range exclusionsOf(o, backend) {
		args = append(args, "--skip="+e.pattern)
	}
	args = append(args, program("e2e.test"), "--",
		"--kubeconfig="+s.Cluster.Admin(), "--kubectl-path="+program("kubectl"), "--provider=skeleton", "--report-dir="+dir, "--e2e-output-dir="+dir,
		fmt.Sprintf("--num-nodes=%d", len(s.Machines)), "--disable-log-dump")
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	// Interrupted, ginkgo lets the tests clean up. What does not end by itself is killed with all processes that it has.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run the tests: %w", err)
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nothing is left, most of the time
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return nil // a test failed; when nothing was run, there is no report
	}
	if err != nil {
		return fmt.Errorf("run the tests: %w", err)
	}
	return nil
}
