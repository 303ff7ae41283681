package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/twill-cni/twill/ctl/lab/process"
)

const patience = 5 * time.Second // for a process that was asked to end

// service is a program that the lab brings along, in a process of the underlay's namespace: a hidden sub-command of twillctl, so that
// nothing needs to be installed. Its files are in the lab's directory of its name.
type service struct {
	lab  *Lab
	name string // of the sub-command, too
}

func (s service) file(name string) string { return s.lab.dir.service(s.name, name) }

// start starts the service with these arguments and waits until it is ready. When it runs already, nothing happens.
func (s service) start(ctx context.Context, args ...string) error {
	if s.running() {
		return nil
	}
	ready, signal, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer ready.Close()
	err = s.exec(signal, args)
	signal.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.lab.options.ReadyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The other end is written to when the service answers, and closed when its process ends.
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		if errors.Is(err, io.EOF) {
			err = errors.New("the process ended")
		}
		return fmt.Errorf("wait for %s: %w%s", s.name, errors.Join(ctx.Err(), err), tail(s.file("log")))
	}
	return nil
}

func (s service) exec(ready *os.File, args []string) error {
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args = slices.Concat([]string{"lab", s.name, "--ready-fd", "3"}, args)
	cmd := exec.Command(filepath.Join(s.lab.options.BinDir, "twillctl"), args...)
	cmd.ExtraFiles = []*os.File{ready}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = s.lab.Dir()
	return s.lab.Underlay().Do(func() error {
		_, err := process.Start(cmd, s.file("pid"))
		return err
	})
}

func (s service) process() (process.ID, error) { return process.Read(s.file("pid")) }

// running reports whether the process lives, be it stopped by a signal.
func (s service) running() bool {
	id, err := s.process()
	return err == nil && id.Alive()
}

func (s service) tell(what string, f func(process.ID) error) error {
	id, err := s.process()
	if err == nil {
		err = f(id)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, s.name, err)
	}
	return nil
}
