package hostfile

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-cni/twill/store"
)

// winner returns an error, a store.Trouble, that names the file because of which a container runtime does not take Twill's conflist: it takes the
// first by name of those that it can read.
//
// The file is told and left alone. Moved aside by the daemon, a configuration that somebody means would come and go with whoever wrote last, and
// a way back to the network before would have to know what was moved; meanwhile all that Twill programmed serves the pods that are there, and the
// node, which is not ready, gets no pods that would end up in the other network. What such a file is for in earnest is to lead to Twill by a
// plugin that runs others, as Multus does: that is no trouble.
func (h *Host) winner() error {
	all, err := Configurations(h.opts.ConfDir)
	if err != nil {
		return fmt.Errorf("look for other network configurations: %w", err)
	}
	for _, c := range all {
		if c.Name == ConflistName {
			return nil
		}
		if slices.ContainsFunc(c.Types, leadsHere) {
			continue
		}
		what := "of " + strings.Join(c.Types, ", ")
		if c.Err != nil { // containerd stops at what it cannot read
			what = "that cannot be read (" + c.Err.Error() + ")"
		}
		path := filepath.Join(h.opts.ConfDir, c.Name)
		return &store.Trouble{Reason: store.ReasonLeftover, Err: fmt.Errorf("container runtimes take the network configuration %s, %s, before %s: new pods would not be on "+
			"Twill's network; once nothing needs it, run `mv %s %s.disabled` on the host", path, what, ConflistName, path, path)}
	}
	return nil
}

// leadsHere reports whether a plugin of that type may run Twill's.
func leadsHere(plugin string) bool {
	return slices.Contains([]string{"twill", "multus", "multus-shim", "danm", "genie"}, plugin)
}
