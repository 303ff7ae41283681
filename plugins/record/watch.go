//go:build linux

package record

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Watch calls changed whenever a record of the network may have come, become complete, ceased to be, or gone; several changes may be
// told as one. It returns when ctx has ended, or with an error when the directory cannot be watched, or not any more because it was removed:
// the caller looks at all records then and watches again.
func Watch(ctx context.Context, runDir, network string, changed func()) error {
	dir := filepath.Join(runDir, "attachments", network)
	if err := watch(ctx, dir, changed); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch attachment records %s: %w", dir, err)
	}
	return ctx.Err()
}

func watch(ctx context.Context, dir string, changed func()) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	events := os.NewFile(uintptr(fd), "inotify") // with the runtime's poller, since it does not block: Close ends Read
	defer events.Close()
	defer context.AfterFunc(ctx, func() { _ = events.Close() })()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_CREATE|unix.IN_DELETE_SELF|unix.IN_ONLYDIR); err != nil {
		return err
	}
	changed() // what came before the watch stood
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if err != nil {
			return err
		}
		changed()
		if gone(buf[:n]) {
			return errors.New("it was removed")
		}
	}
}

// gone reports whether one of the events says that the watch ended.
func gone(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask, length := binary.NativeEndian.Uint32(events[4:]), int(binary.NativeEndian.Uint32(events[12:])) // inotify(7)
		if mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF) != 0 {
			return true
		}
		events = events[min(unix.SizeofInotifyEvent+length, len(events)):]
	}
	return false
}
