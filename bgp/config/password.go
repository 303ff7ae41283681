package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
)

// maxPassword is the size in bytes of the longest TCP MD5 key (TCP_MD5SIG_MAXKEYLEN in the kernel's include/uapi/linux/tcp.h).
const maxPassword = 80

// Passwords are the contents of password files. They do not show up in logs and dumps.
type Passwords struct{ byFile map[string]string }

// Lookup returns the password that the file holds. No file is no password; a file that could not be read is an error.
func (p Passwords) Lookup(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	password, ok := p.byFile[file]
	if !ok {
		return "", fmt.Errorf("password file %s could not be read", file)
	}
	return password, nil
}

// Else returns the passwords with those of before for the files that could not be read.
func (p Passwords) Else(before Passwords, files []string) Passwords {
	all := Passwords{byFile: make(map[string]string, len(files))}
	for _, file := range files {
		for _, from := range []Passwords{before, p} {
			if password, ok := from.byFile[file]; ok {
				all.byFile[file] = password
			}
		}
	}
	return all
}

// String hides the passwords from fmt.
func (p Passwords) String() string { return fmt.Sprintf("%d passwords (hidden)", len(p.byFile)) }

// GoString hides the passwords from fmt's %#v.
func (p Passwords) GoString() string { return p.String() }

// LogValue hides the passwords from slog.
func (p Passwords) LogValue() slog.Value { return slog.StringValue(p.String()) }

// PasswordFiles returns the names of the files that a node needs: those of the peers that it has, and that of the sessions between nodes. They
// are sorted and without duplicates.
func (c *Config) PasswordFiles(name string, labels map[string]string) []string {
	var files []string
	if c.PasswordFile != "" {
		files = append(files, c.PasswordFile)
	}
	for _, p := range c.Peers {
		if p.PasswordFile != "" && p.Nodes.Matches(name, labels) {
			files = append(files, p.PasswordFile)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// ReadPasswords reads password files. Each is a regular file that its owner alone may read, with one line of at most 80 bytes. What cannot
// be read is joined into the error; the passwords of the others are returned with it.
func ReadPasswords(files []string) (Passwords, error) {
	p := Passwords{byFile: make(map[string]string, len(files))}
	var errs []error
	for _, file := range files {
		password, err := readPassword(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("password file %s: %w", file, err))
			continue
		}
		p.byFile[file] = password
	}
	return p, errors.Join(errs...)
}

func readPassword(file string) (string, error) {
	// Opening a pipe would wait for its writer.
	if info, err := os.Stat(file); err != nil {
		return "", cause(err)
	} else if !info.Mode().IsRegular() {
		return "", errors.New("it is no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", cause(err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("its mode is %04o, which lets others than its owner use it; want 0600 or 0400", mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPassword+3)) // as much as shows that it is too long
	if err != nil {
		return "", cause(err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case password == "":
		return "", errors.New("it is empty")
	case len(password) > maxPassword:
		return "", fmt.Errorf("it holds more than %d bytes, the most that TCP MD5 takes", maxPassword)
	case strings.ContainsAny(password, "\r\n\x00"):
		return "", errors.New("it holds more than one line of text")
	}
	return password, nil
}

// cause strips the name of the file, which the caller gives, from an error.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
