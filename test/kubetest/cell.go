package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// A cell is what makes a part of the machine look like a machine: namespaces for processes, mounts, network, host name and cgroups, and the
// process that is the first in there. When that one ends, the kernel ends all others, and with the last of them mounts and network
// are gone. That is why a test that is killed leaves nothing that runs: the first process ends when nobody can write to its standard input
// any more.
type cell struct {
	spec  cellSpec
	first *exec.Cmd
	life  *os.File // nothing is ever written
	ended chan struct{}
}

// cellSpec is what the first process is told.
type cellSpec struct {
	Name     string   // host name
	Root     string   // directory that becomes the root of the file system
	Programs string   // directory that is /usr/local/bin
	Cgroups  []cgroup // in which all processes of the cell are
}

// What this program is called when it is to be something else than a test. See Init.
const (
	asFirst  = "kubetest-first"  // builds the cell, then becomes asReaper
	asReaper = "kubetest-reaper" // the first process of a cell
	asEntry  = "kubetest-entry"  // enters the cell, then becomes a program
)

// Init must be called first by main or TestMain of every program that makes machines: processes of a machine begin as copies of the program
// that calls, in which Init does not return.
func Init() {
	var err error
	switch os.Args[0] {
	case asFirst:
		err = runFirst(os.Args[1])
	case asReaper:
		err = runReaper()
	case asEntry:
		err = runEntry(os.Args[1])
	default:
		return
	}
	fmt.Fprintln(os.Stderr, err) // the log of whoever started this, or the pipe that startCell reads
	os.Exit(1)
}

// startCell makes a cell and waits until its file system is complete.
func startCell(spec cellSpec) (*cell, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	death, life, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	c := &cell{spec: spec, life: life, ended: make(chan struct{})}
	c.first = &exec.Cmd{Path: "/proc/self/exe", Args: []string{asFirst, string(text)}, Stdin: death, Stdout: write, Stderr: write,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS}}
	err = errors.Join(c.first.Start(), death.Close(), write.Close()) // the child has its own
	if err != nil {
		return nil, fmt.Errorf("start the first process: %w", errors.Join(err, life.Close()))
	}
	go func() {
		_ = c.first.Wait() // it ends by a signal
		close(c.ended)
	}()
	// The reaper closes the pipe when it has nothing to say; what comes before is an error.
	said, err := io.ReadAll(read)
	if err == nil && len(said) > 0 {
		err = errors.New(string(said))
	}
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("build the machine: %w", err)
	}
	return c, nil
}

// kill ends all processes of the cell and waits until they are gone.
func (c *cell) kill() {
	if c == nil {
		return
	}
	_ = c.first.Process.Kill() // it may have ended
	<-c.ended
	_ = c.life.Close() // nothing was written
}

func (c *cell) pid() int { return c.first.Process.Pid }

// file returns a path as processes outside of the cell see it.
func (c *cell) file(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", c.pid()), name)
}

func (c *cell) space(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", c.pid(), kind) }

// entry is what asEntry is told.
type entry struct {
	PID     int // of the first process
	Cgroups []cgroup
	Dir     string
	Args    []string
}

// command makes a command of the cell out of one of the machine, before it is started. What enter does must be done on the starting thread.
func (c *cell) command(cmd *exec.Cmd, dir string) error {
	text, err := json.Marshal(entry{PID: c.pid(), Cgroups: c.spec.Cgroups, Dir: dir, Args: cmd.Args})
	if err != nil {
		return err
	}
	cmd.Path, cmd.Args, cmd.Dir, cmd.Err = "/proc/self/exe", []string{asEntry, string(text)}, "", nil
	// It ends with the cell. Asking for a signal besides would end it at once: syscall.forkExec compares process numbers that two namespaces gave.
	cmd.SysProcAttr = nil
	cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	return nil
}

// enter makes the calling thread's children processes of the cell. The thread must be locked, and must not be used for anything else: there
// is no way back.
func (c *cell) enter() error {
	space, err := os.Open(c.space("pid"))
	if err != nil {
		return err
	}
	defer space.Close()
	return unix.Setns(int(space.Fd()), unix.CLONE_NEWPID)
}

// runEntry enters the rest of the cell and becomes the program.
func runEntry(text string) error {
	var e entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	for _, g := range e.Cgroups {
		if err := g.join(); err != nil {
			return err
		}
	}
	runtime.LockOSThread()                              // namespaces are the thread's, until it executes the program
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread that shares its working directory may not change mount namespaces
		return err
	}
	kinds := []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP}, {"mnt", unix.CLONE_NEWNS}}
	// This process has a number in the cell's process namespace only, but /proc is still the machine's.
	var files []*os.File
	for _, kind := range kinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", e.PID, kind.name))
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	for i, kind := range kinds {
		if err := unix.Setns(int(files[i].Fd()), kind.flag); err != nil {
			return fmt.Errorf("enter namespace %s: %w", kind.name, err)
		}
	}
	if err := os.Chdir(e.Dir); err != nil {
		return err
	}
	program, err := exec.LookPath(e.Args[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, e.Args, os.Environ()))
}

// runFirst builds the cell and becomes its reaper.
func runFirst(text string) error {
	var spec cellSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	for _, g := range spec.Cgroups {
		if err := g.join(); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	// Now, since the root of a cgroup namespace is the cgroup of who makes it.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_FS); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := buildRoot(spec); err != nil {
		return err
	}
	// A thread of its own has the namespaces so far. It is the whole process once it has executed something, and this program is all that
	// is certain to be there.
	return syscall.Exec("/proc/self/exe", []string{asReaper}, os.Environ())
}

// runReaper waits for children that their parents have left, as the first process of a machine has to, until the test ends.
func runReaper() error {
	go func() {
		_, err := os.Stdin.Read(make([]byte, 1))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}()
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for _, f := range []*os.File{os.Stdout, os.Stderr} { // one pipe; its other end waits for this
		if err := f.Close(); err != nil {
			return err
		}
	}
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == nil && pid > 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		<-children
	}
}
