package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs in a network namespace and ends with the caller's process.
type process struct {
	cmd  *exec.Cmd
	log  string        // file that holds what the program prints
	done chan struct{} // closed when it has ended
}

// program says what to start and where.
type program struct {
	path      string
	args      []string
	namespace string // file of a network namespace; "" is the caller's
	dir       string // for the working directory and the log, which another start of the program continues
	cell      *cell  // of the machine that it belongs to, whose network namespace it has then; its working directory is / there
}

func (p program) name() string { return filepath.Base(p.path) }

func (p program) start() (*process, error) {
	log, err := os.OpenFile(filepath.Join(p.dir, p.name()+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name(), err)
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := func() error { return inside(p.namespace, cmd.Start) }
	if p.cell != nil {
		if err := p.cell.command(cmd, "/"); err != nil {
			return nil, fmt.Errorf("start %s: %w", p.name(), err)
		}
		start = func() error {
			if err := p.cell.enter(); err != nil {
				return err
			}
			return cmd.Start()
		}
	}
	started := &process{cmd: cmd, log: log.Name(), done: make(chan struct{})}
	failed := make(chan error)
	go func() {
		// The death signal is sent when the thread ends that started the program: this one lives as long, and no longer.
		runtime.LockOSThread()
		err := start()
		failed <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is for its log to say
		}
		close(started.done)
	}()
	if err := <-failed; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name(), err)
	}
	return started, nil
}

// kill ends the program at once and waits until it has. One that has ended, or was never started, is left alone.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// await polls until ready returns nil. The error of the last attempt tells what was missing, the program's log why.
func (p *process) await(ctx context.Context, timeout time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
			continue
		case <-p.done:
			err = errors.Join(errors.New("the process ended"), err)
		case <-ctx.Done():
			err = errors.Join(ctx.Err(), err)
		}
		return fmt.Errorf("wait for %s: %w\n%s", strings.TrimSuffix(filepath.Base(p.log), ".log"), err, tail(p.log))
	}
}

// tail returns the end of a log.
func tail(file string) string {
	const most = 4000 // bytes
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	end := string(text[max(0, len(text)-most):])
	if _, whole, ok := strings.Cut(end, "\n"); ok && len(text) > most {
		end = whole
	}
	return end
}
