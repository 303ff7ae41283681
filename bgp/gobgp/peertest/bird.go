package peertest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

func nsHandle(f *os.File) netns.NsHandle { return netns.NsHandle(int(f.Fd())) }

// BIRD is a running bird (version 2).
type BIRD struct {
	*process
	t      testing.TB
	dir    string
	socket string
	host   *Host
}

// StartBIRD runs bird in the foreground on a host, with a configuration. The test's end kills it.
func StartBIRD(t testing.TB, h *Host, conf string) *BIRD {
	t.Helper()
	dir := tempDir(t)
	b := &BIRD{t: t, dir: dir, socket: filepath.Join(dir, "ctl"), host: h}
	must(t, "write bird.conf", os.WriteFile(filepath.Join(dir, "bird.conf"), []byte(conf), 0o600))
	b.Start()
	return b
}

// Start starts bird again after it was killed.
func (b *BIRD) Start() {
	b.t.Helper()
	_ = os.Remove(b.socket)
	cmd := b.host.Command(context.Background(), "bird", "-f", "-c", filepath.Join(b.dir, "bird.conf"), "-s", b.socket, "-P", filepath.Join(b.dir, "pid"))
	b.process = startProcess(b.t, cmd)
	Eventually(b.t, "bird answers", 10*time.Second, func() bool {
		return exec.Command("birdc", "-s", b.socket, "show", "status").Run() == nil
	})
}

// Ctl returns what birdc prints.
func (b *BIRD) Ctl(args ...string) string {
	b.t.Helper()
	out, err := exec.Command("birdc", append([]string{"-r", "-s", b.socket}, args...)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("birdc %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Do gives bird a command that changes it.
func (b *BIRD) Do(args ...string) string {
	b.t.Helper()
	out, err := exec.Command("birdc", append([]string{"-s", b.socket}, args...)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("birdc %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Configure gives bird a new configuration.
func (b *BIRD) Configure(conf string) {
	b.t.Helper()
	must(b.t, "write bird.conf", os.WriteFile(filepath.Join(b.dir, "bird.conf"), []byte(conf), 0o600))
	b.Do("configure")
}

// Has reports whether bird has a route for the prefix whose description contains all of words.
func (b *BIRD) Has(prefix string, words ...string) bool {
	b.t.Helper()
	out, err := exec.Command("birdc", "-r", "-s", b.socket, "show", "route", "for", prefix, "all").CombinedOutput()
	if err != nil || !strings.Contains(string(out), prefix) {
		return false
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			return false
		}
	}
	return true
}

// process is a program that ends with the test.
type process struct {
	t   testing.TB
	cmd *exec.Cmd

	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
}

func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread ends that started the program: this one lives as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, mostly
		}
		close(p.done)
	}()
	must(t, "start "+cmd.String(), <-started)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%v:\n%s", cmd.Args, p.Output())
		}
	})
	return p
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Output is what the program printed so far.
func (p *process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Signal sends a signal.
func (p *process) Signal(s syscall.Signal) {
	p.t.Helper()
	must(p.t, "signal "+p.cmd.Path, p.cmd.Process.Signal(s))
}

// Kill ends the program without letting it say anything, and waits for its end.
func (p *process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// tempDir has a short name, since Unix sockets are in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	must(t, "make directory", err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
