package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process: its number and when it started, in clock ticks since boot (proc_pid_stat(5), field 22).
type ID struct {
	PID   int
	Start uint64
}

// Start starts cmd in a session of its own, so that the terminal's Ctrl-C does not reach it, and writes pidfile. The calling thread's
// network namespace is the new process's. The process is reaped when it ends within the caller's lifetime.
func Start(cmd *exec.Cmd, pidfile string) (ID, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return ID{}, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	start, _, err := stat(cmd.Process.Pid) // before it can be reaped
	go func() { _ = cmd.Wait() }()         // reap; how it ended is for its log to say
	id := ID{PID: cmd.Process.Pid, Start: start}
	if err == nil {
		err = writeFile(pidfile, fmt.Sprintf("%d %d\n", id.PID, id.Start))
	}
	if err != nil {
		return ID{}, errors.Join(fmt.Errorf("record process %d of %s: %w", id.PID, cmd.Path, err), cmd.Process.Kill())
	}
	return id, nil
}

// Read reads a pidfile. It wraps os.ErrNotExist when there is none.
func Read(pidfile string) (ID, error) {
	text, err := os.ReadFile(pidfile)
	if err != nil {
		return ID{}, fmt.Errorf("read pidfile: %w", err)
	}
	id, err := parse(string(text))
	if err != nil {
		return ID{}, fmt.Errorf("read pidfile %s: %w", pidfile, err)
	}
	return id, nil
}

func parse(text string) (ID, error) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return ID{}, fmt.Errorf("want PID and start time, have %q", text)
	}
	pid, err := strconv.ParseInt(fields[0], 10, 32)
	if err != nil || pid <= 0 {
		return ID{}, fmt.Errorf("%q is no process number", fields[0])
	}
	start, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return ID{}, fmt.Errorf("%q is no start time", fields[1])
	}
	return ID{PID: int(pid), Start: start}, nil
}

// Alive reports whether the process still runs. One that ended but was not yet reaped does not; one whose first thread has ended
// and whose others are on their way out does: it still holds its files and their locks.
func (id ID) Alive() bool {
	start, state, err := stat(id.PID)
	if err != nil || start != id.Start || state == 'X' {
		return false
	}
	if state != 'Z' {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", id.PID))
	return err == nil && len(threads) > 1
}

// Signal sends a signal. A process that has ended is no error.
func (id ID) Signal(sig syscall.Signal) error {
	fd, err := id.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, id.PID, err)
	}
	return nil
}

// Suspend stops the process without ending it (SIGSTOP) and waits until each of its threads has stopped, which takes a moment on a busy
// machine. A process that has ended is no error. SIGCONT lets it go on.
func (id ID) Suspend(ctx context.Context) error {
	if err := id.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for id.Alive() && !id.suspended() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until process %d has stopped: %w", id.PID, ctx.Err())
		}
	}
	return nil
}

// suspended reports whether all threads are stopped (T, t) or have ended (Z, X, or not there).
func (id ID) suspended() bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", id.PID))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			if _, state, err := stat(tid); err == nil && !strings.ContainsRune("TtZX", rune(state)) {
				return false
			}
		}
	}
	return true
}

// Wait returns nil when the process has ended, or ctx's error.
func (id ID) Wait(ctx context.Context) error {
	fd, err := id.open()
	if err != nil || fd < 0 {
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd") // not blocking, so the runtime's poller waits for it
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", id.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // readable: the process has ended
		return err == nil && n == 1
	})
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", id.PID, errors.Join(ctx.Err(), err))
	}
	return nil
}

// Kill ends the process at once and waits until it has.
func (id ID) Kill(ctx context.Context) error {
	if err := id.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return id.Wait(ctx)
}

// Stop asks the process to end (SIGTERM) and waits; after patience it kills it.
func (id ID) Stop(ctx context.Context, patience time.Duration) error {
	if err := id.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if id.Wait(patient) == nil {
		return nil
	}
	return id.Kill(ctx)
}

// open returns a pidfd of the process, or -1 when it has ended.
func (id ID) open() (int, error) {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	if !id.Alive() { // asked after the descriptor was opened: from here on it stands for this very process
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// Inside returns the processes whose network namespace is one of those held by the given files, except the caller. Files that are
// missing or hold no namespace are passed over.
func Inside(namespaces []string) ([]ID, error) {
	type inode struct{ dev, ino uint64 }
	wanted := map[inode]bool{}
	for _, path := range namespaces {
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC && unix.Stat(path, &st) == nil {
			wanted[inode{st.Dev, st.Ino}] = true
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []ID
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &st) != nil || !wanted[inode{st.Dev, st.Ino}] {
			continue
		}
		if start, state, err := stat(pid); err == nil && state != 'Z' {
			found = append(found, ID{PID: pid, Start: start})
		}
	}
	return found, nil
}

func stat(pid int) (start uint64, state byte, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the name in parentheses, which may hold anything; nothing behind its last ")" does.
	_, rest, ok := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, 0, fmt.Errorf("cannot understand /proc/%d/stat", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

// writeFile replaces path as a whole: a reader sees the old text or the new one.
func writeFile(path, text string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
