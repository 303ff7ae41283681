package hostfile

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Configuration is a file that container runtimes take for the configuration of a network.
type Configuration struct {
	Name  string   // of the file
	Types []string // of its plugins
	Err   error    // why it cannot be read
}

// maxConfiguration bounds the size in bytes of a file, which may be anybody's.
const maxConfiguration = 1 << 20

// Configurations returns the network configurations of a directory by name, which is the order in which libcni takes them. Like libcni it passes over files that
// name no plugin.
func Configurations(dir string) ([]Configuration, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var all []Configuration
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		types, err := pluginTypes(filepath.Join(dir, e.Name()))
		if len(types) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) { // else it went away, or names none
			all = append(all, Configuration{e.Name(), types, err})
		}
	}
	return all, nil
}

func pluginTypes(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()                                              // it was read only
	data, err := io.ReadAll(io.LimitReader(f, maxConfiguration)) // what is longer is cut, and cannot be read as JSON
	if err != nil {
		return nil, err
	}
	return parseTypes(data)
}

func parseTypes(data []byte) ([]string, error) {
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
