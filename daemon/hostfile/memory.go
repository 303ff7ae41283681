package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of the run directory that the daemon itself leaves there.
const (
	memoryFile = "bgp.json"
	socketFile = "twilld.sock"
)

// maxMemory is the size in bytes above which a memory is refused.
const maxMemory = 1 << 20

// Remember keeps data for the next run of the daemon, until the next boot. An empty data is none.
func (h *Host) Remember(data []byte) error {
	path := h.memory()
	if _, err := write(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Recall returns what was kept last, and nothing when there is nothing.
func (h *Host) Recall() ([]byte, error) {
	f, err := os.Open(h.memory())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recall the last run: %w", err)
	}
	defer f.Close() // opened for reading: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxMemory+1))
	if err == nil && len(data) > maxMemory {
		err = fmt.Errorf("%s has more than %d bytes", h.memory(), maxMemory)
	}
	if err != nil {
		return nil, fmt.Errorf("recall the last run: %w", err)
	}
	return data, nil
}

func (h *Host) memory() string { return filepath.Join(h.opts.RunDir, memoryFile) }

func (h *Host) socket() string { return filepath.Join(h.opts.RunDir, socketFile) }
