package kubetest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What begins the names of what a killed test leaves: directories and empty cgroups. Its process ID follows.
const (
	clusterPrefix = "kubetest-"
	machinePrefix = "kubetest-machine-"
)

// sweep removes what tests have left that were killed.
func sweep() {
	remove := func(dir, prefix string, f func(string)) {
		found, _ := filepath.Glob(filepath.Join(dir, prefix+"*")) // the pattern is good
		for _, name := range found {
			number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), prefix), "-")
			pid, err := strconv.Atoi(number)
			if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				f(name)
			}
		}
	}
	for _, prefix := range []string{clusterPrefix, machinePrefix} {
		remove(os.TempDir(), prefix, func(dir string) { _ = os.RemoveAll(dir) })
	}
	groups, _ := cgroups() // who needs them will hear the error
	for _, g := range groups {
		remove(g.Dir, machinePrefix, func(dir string) { _ = removeGroups(dir) })
	}
}
