package conntrack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Use returns how many connections the kernel tracks in the process' network namespace, and how many it tracks at most in all of them together: beyond
// that, packets of new connections are dropped (nf_conntrack_alloc). Both are 0 while the kernel tracks none, the module nf_conntrack not being loaded.
func Use() (used, most int, err error) { return useIn("/proc/sys/net/netfilter") }

func useIn(dir string) (used, most int, err error) {
	used, err1 := number(filepath.Join(dir, "nf_conntrack_count"))
	most, err2 := number(filepath.Join(dir, "nf_conntrack_max"))
	return used, most, errors.Join(err1, err2)
}

func number(file string) (int, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close() // it was read only
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
