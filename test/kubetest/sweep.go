package kubetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What begins the names of what a killed test leaves: directories and empty cgroups. Its owner follows.
const (
	clusterPrefix = "kubetest-"
	machinePrefix = "kubetest-machine-"
)

// owner names this process among those of all namespaces of process IDs that share the directory for temporary files.
func owner() string { return fmt.Sprintf("%s.%d", pidNamespace(), os.Getpid()) }

// pidNamespace returns the number of the namespace in which process IDs are to be understood.
func pidNamespace() string {
	name, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return "0" // without /proc there is one
	}
	return strings.Trim(strings.TrimPrefix(name, "pid:"), "[]")
}

// sweep removes what tests have left that were killed. Those of other namespaces of process IDs cannot be told from the living.
func sweep() {
	remove := func(dir, prefix string, f func(string)) {
		found, _ := filepath.Glob(filepath.Join(dir, prefix+"*")) // the pattern is good
		for _, name := range found {
			of, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), prefix), "-")
			namespace, number, _ := strings.Cut(of, ".")
			pid, err := strconv.Atoi(number)
			if err == nil && namespace == pidNamespace() && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
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
