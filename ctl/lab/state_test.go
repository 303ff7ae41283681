package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheDirectoryIsTheJournal(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		want  []string
	}{
		{"no directory", nil, nil},
		{"killed before the first namespace", []string{"lab.json"}, nil},
		{"underlay only", []string{"lab.json", "underlay"}, []string{"x-underlay"}},
		{"node whose record was not written", []string{"underlay", "nodes/node1/cni/conf/y"}, []string{"x-underlay", "x-node1"}},
		{"pod that was being attached", []string{"underlay", "nodes/a/node.json", "nodes/a/pods/p.json", "nodes/a/pods/q.json", "nodes/a/pods/q.json.new"},
			[]string{"x-underlay", "x-p", "x-q", "x-a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := directory(filepath.Join(t.TempDir(), "x"))
			for _, f := range tt.files {
				write(t, filepath.Join(string(d), f), "")
			}
			namespaces, err := d.namespaces()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, ns := range namespaces {
				got = append(got, ns.Name())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	if labs, err := List(filepath.Join(dir, "missing")); err != nil || len(labs) != 0 {
		t.Errorf("without a directory: %v, %v", labs, err)
	}
	write(t, filepath.Join(dir, "b", "lab.json"), `{"Name":"b","Complete":true}`)
	write(t, filepath.Join(dir, "b", "nodes/node1/node.json"), "{}")
	write(t, filepath.Join(dir, "a", "lab.json"), "not JSON")
	write(t, filepath.Join(dir, "Not-A-Lab", "x"), "")
	write(t, filepath.Join(dir, "file"), "")
	labs, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Info{{Name: "a", Nodes: []string{}}, {Name: "b", Complete: true, Nodes: []string{"node1"}}}
	if diff := cmp.Diff(want, labs); diff != "" {
		t.Error(diff)
	}
}

func TestOpenFails(t *testing.T) {
	tests := []struct {
		name, record string
		notFound     bool
	}{
		{name: "missing", notFound: true},
		{name: "empty", record: " "},
		{name: "no-json", record: "{"},
		{name: "wrong-type", record: `{"Nodes":"three"}`},
		{name: "bad-family", record: `{"Family":"ipv5"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.record != "" {
				write(t, filepath.Join(dir, tt.name, "lab.json"), tt.record)
			}
			_, err := Open(Options{Name: tt.name, StateDir: dir})
			if err == nil || errors.Is(err, ErrNotFound) != tt.notFound {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLockExcludes(t *testing.T) {
	d := directory(filepath.Join(t.TempDir(), "x"))
	unlock, err := d.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.lock(); !errors.Is(err, ErrBusy) {
		t.Errorf("the second lock: %v", err)
	}
	// The one that has the lock removes the lab: who comes next has a directory of its own.
	if err := os.Remove(string(d)); err != nil {
		t.Fatal(err)
	}
	next, err := d.lock()
	if err != nil {
		t.Fatalf("after the directory was removed: %v", err)
	}
	unlock()
	if _, err := d.lock(); !errors.Is(err, ErrBusy) {
		t.Errorf("while the next has it: %v", err)
	}
	next()
}

func TestSaveReplacesAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	for _, want := range []Info{{Name: "first, longer than the second"}, {Name: "second"}} {
		if err := save(path, want); err != nil {
			t.Fatal(err)
		}
		var got Info
		if err := load(path, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if left, err := entries(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(`{"Name":"x","Nodes":3,"Family":"ipv4","NetworkConfig":{}}`, `{"Number":1}`)
	f.Fuzz(func(t *testing.T, lab, node string) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "x", "lab.json"), lab)
		write(t, filepath.Join(dir, "x", "nodes/node1/node.json"), node)
		if l, err := Open(Options{Name: "x", StateDir: dir}); err == nil && l.Dir() != filepath.Join(dir, "x") {
			t.Errorf("the lab is at %s", l.Dir())
		}
	})
}
