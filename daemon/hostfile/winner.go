package hostfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	entries, err := os.ReadDir(h.opts.ConfDir) // sorted by name
	if err != nil {
		return fmt.Errorf("look for other network configurations: %w", err)
	}
	for _, e := range entries {
		if e.Name() == ConflistName {
			return nil
		}
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) || e.IsDir() {
			continue
		}
		path := filepath.Join(h.opts.ConfDir, e.Name())
		types, err := pluginTypes(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (len(types) == 0 || slices.ContainsFunc(types, leadsHere)) {
			continue // gone, or passed over by libcni
		}
		what := "of " + strings.Join(types, ", ")
		if err != nil { // containerd stops at what it cannot read
			what = "that cannot be read (" + err.Error() + ")"
		}
		return &store.Trouble{Reason: store.ReasonLeftover, Err: fmt.Errorf("container runtimes take the network configuration %s, %s, before %s: new pods would not be on "+
			"Twill's network; once nothing needs it, run `mv %s %s.disabled` on the host", path, what, ConflistName, path, path)}
	}
	return nil
}

// maxForeign bounds the size in bytes of somebody else's configuration.
const maxForeign = 1 << 20

// leadsHere reports whether a plugin of that type may run Twill's.
func leadsHere(plugin string) bool {
	return slices.Contains([]string{"twill", "multus", "multus-shim", "danm", "genie"}, plugin)
}

// pluginTypes returns the types of a configuration's plugins, none when it has no plugins.
func pluginTypes(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()                                        // it was read only
	data, err := io.ReadAll(io.LimitReader(f, maxForeign)) // what is longer is cut, and cannot be read as JSON
	if err != nil {
		return nil, err
	}
	type plugin struct {
		Type string `json:"type"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return nil, err
	}
	var types []string
	for _, p := range append(conf.Plugins, conf.plugin) {
		if p.Type != "" {
			types = append(types, p.Type)
		}
	}
	return types, nil
}
