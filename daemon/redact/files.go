package redact

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mostFiles is how many network configurations are shown.
const mostFiles = 50

// File is a file of the host, without secrets.
type File struct {
	Path  string `json:"path"`
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"` // why there is no text
}

// ReadDocument reads a YAML or JSON file.
func ReadDocument(path string) File {
	data, err := read(path)
	f := File{Path: path}
	if err == nil {
		f.Text, err = Document(data)
	}
	if err != nil {
		f.Text, f.Error = "", err.Error()
	}
	return f
}

// ReadSubnetFile reads subnet.env: flannel's settings, and nothing else that may stand there.
func ReadSubnetFile(path string) File {
	data, err := read(path)
	if err != nil {
		return File{Path: path, Error: err.Error()}
	}
	f := File{Path: path}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "FLANNEL_") {
			f.Text += Text(line)
		}
	}
	return f
}

// ReadConfigurations reads the network configurations of a directory, sorted by name.
func ReadConfigurations(dir string) []File {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []File{{Path: dir, Error: err.Error()}}
	}
	var all []File
	for _, e := range entries {
		known := slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name()))
		if known && e.Type().IsRegular() && len(all) < mostFiles {
			all = append(all, ReadDocument(filepath.Join(dir, e.Name())))
		}
	}
	return all
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was read only
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}
