package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPasswords(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", maxPassword)
	for _, tc := range []struct {
		name, content string
		mode          os.FileMode
		want, err     string
	}{
		{name: "plain", content: "geheim", mode: 0o600, want: "geheim"},
		{name: "line", content: "ge heim\n", mode: 0o400, want: "ge heim"},
		{name: "longest", content: long + "\r\n", mode: 0o600, want: long},
		{name: "too-long", content: long + "x", mode: 0o600, err: "more than 80 bytes"},
		{name: "far-too-long", content: strings.Repeat(long, 100), mode: 0o600, err: "more than 80 bytes"},
		{name: "lines", content: "geheim\ngeheim", mode: 0o600, err: "more than one line"},
		{name: "empty", content: "\n", mode: 0o600, err: "it is empty"},
		{name: "of-the-group", content: "geheim", mode: 0o640, err: "its mode is 0640"},
		{name: "of-all", content: "geheim", mode: 0o604, err: "want 0600 or 0400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(dir, tc.name)
			if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, tc.mode); err != nil {
				t.Fatal(err)
			}
			p, err := ReadPasswords([]string{file})
			if tc.err != "" {
				wantError(t, err, file, tc.err)
				if _, err := p.Lookup(file); err == nil {
					t.Error("Lookup found a password")
				}
				return
			}
			if got, lookup := p.Lookup(file); err != nil || lookup != nil || got != tc.want {
				t.Errorf("ReadPasswords: %v, Lookup: %q, %v", err, got, lookup)
			}
		})
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %v, want %s in it", err, part)
		}
	}
	if err != nil && strings.Contains(err.Error(), "geheim") {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestOneBadPasswordFileDoesNotHideTheOthers(t *testing.T) {
	dir := t.TempDir()
	good, pipe, missing := filepath.Join(dir, "good"), filepath.Join(dir, "pipe"), filepath.Join(dir, "missing")
	if err := os.WriteFile(good, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := ReadPasswords([]string{pipe, missing, good, dir})
	wantError(t, err, pipe+": it is no regular file", missing+": no such file", dir+": it is no regular file")
	if got, err := p.Lookup(good); err != nil || got != "geheim" {
		t.Errorf("Lookup: %q, %v", got, err)
	}
	if got, err := p.Lookup(""); err != nil || got != "" {
		t.Errorf("Lookup without a file: %q, %v", got, err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "passwords", p)
	if all := fmt.Sprint(p, []any{p}) + fmt.Sprintf("%+v %#v %s", p, p, p) + log.String(); strings.Contains(all, "geheim") {
		t.Errorf("a password is shown: %s", all)
	}
}

func TestPasswordFilesAreThoseOfTheNode(t *testing.T) {
	c := parse(t, `
passwordFile: /m
peers:
- {name: a, as: 1, address: 192.0.2.1, nodes: {names: [node1]}, passwordFile: /b}
- {name: b, as: 1, address: 192.0.2.2, nodes: {names: [node1]}, passwordFile: /a}
- {name: c, as: 1, address: 192.0.2.3, nodes: {names: [o]}, passwordFile: /c}
- {name: d, as: 1, address: 192.0.2.4, passwordFile: /a}
- {name: e, as: 1, address: 192.0.2.5}
`)
	if diff := cmp.Diff([]string{"/a", "/b", "/m"}, c.PasswordFiles("node1", nil)); diff != "" {
		t.Error(diff)
	}
}

func TestPasswordsFromBeforeServeForFilesThatCannotBeRead(t *testing.T) {
	before := Passwords{byFile: map[string]string{"/a": "old a", "/b": "old b", "/c": "old c"}}
	now := Passwords{byFile: map[string]string{"/a": "new a", "/d": "new d"}}
	got := now.Else(before, []string{"/a", "/b", "/d", "/e"}).byFile
	if diff := cmp.Diff(map[string]string{"/a": "new a", "/b": "old b", "/d": "new d"}, got); diff != "" {
		t.Error(diff)
	}
}
