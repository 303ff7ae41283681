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
const socketFile = "twilld.sock"

// Memory is something that is kept for the next run of the daemon, by the name of its file.
type Memory string

// The memories.
const (
	MemoryOfLease    Memory = "bgp.json"          // what the node published to BGP peers
	MemoryOfServices Memory = "bgp-services.json" // the addresses of Services that it might announce
)

// maxMemory is the size in bytes above which a memory is refused. 50,000 Services with four addresses each fit.
const maxMemory = 16 << 20

// Remember keeps data for the next run of the daemon, until the next boot. An empty data is none.
func (h *Host) Remember(m Memory, data []byte) error {
	path := h.memory(m)
	if _, err := write(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Recall returns what was kept last, and nothing when there is nothing.
func (h *Host) Recall(m Memory) ([]byte, error) {
	f, err := os.Open(h.memory(m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recall the last run: %w", err)
	}
	defer f.Close() // opened for reading: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxMemory+1))
	if err == nil && len(data) > maxMemory {
		err = fmt.Errorf("%s has more than %d bytes", h.memory(m), maxMemory)
	}
	if err != nil {
		return nil, fmt.Errorf("recall the last run: %w", err)
	}
	return data, nil
}

func (h *Host) memory(m Memory) string { return filepath.Join(h.opts.RunDir, string(m)) }

func (h *Host) socket() string { return filepath.Join(h.opts.RunDir, socketFile) }
