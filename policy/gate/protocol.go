package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
)

// SocketPath returns the path of the socket on which the daemon with this run directory answers plugins.
func SocketPath(runDir string) string { return filepath.Join(runDir, "policy.sock") }

// LockPath returns the path of the file that Hold locks.
func LockPath(runDir string) string { return filepath.Join(runDir, "policy.lock") }

// Request says which pod's ADD asks. The record of the attachment is on disk by then, with the pod's addresses.
type Request struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// State is how far the kernel is with a pod.
type State string

// The states, in their order. A daemon may leave out StateClosed.
const (
	// StateClosed: nothing in the kernel opens the pod's addresses, neither elements of the local maps nor connections that are tracked, unless it
	// is the pod's own.
	StateClosed State = "closed"
	// StateReady: what the pod's policies say is in the kernel.
	StateReady State = "ready"
)

// answer is what the daemon sends.
type answer struct {
	State State `json:"state"`
}

// maxMessage bounds a message in bytes. The longest request holds the name of a file and that of a link.
const maxMessage = 1 << 10

// maxID is how long the id of a container may be, in bytes: it is part of the name of a file.
const maxID = 255

func parseRequest(data []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(data, &r); err != nil {
		return Request{}, fmt.Errorf("decode request: %w", err)
	}
	if !validID(r.ContainerID) {
		return Request{}, fmt.Errorf("containerID: %.300q is no id of a container", r.ContainerID)
	}
	if !validIfName(r.IfName) {
		return Request{}, fmt.Errorf("ifName: %.20q is no name of a link", r.IfName)
	}
	return r, nil
}

// validID reports whether libcni lets s through as the id of a container.
func validID(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxID
}

// validIfName reports whether a link may have the name s (net/core/dev.c: dev_valid_name).
func validIfName(s string) bool {
	bad := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) }
	return s != "" && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsFunc(s, bad)
}

// parseState returns an empty State for one that this version does not know.
func parseState(data []byte) (State, error) {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return "", fmt.Errorf("decode answer: %w", err)
	}
	if a.State != StateClosed && a.State != StateReady {
		return "", nil
	}
	return a.State, nil
}

// read reads one message. What is too long is an error: the rest of it is lost.
func read(from interface{ Read([]byte) (int, error) }) ([]byte, error) {
	buf := make([]byte, maxMessage+1)
	n, err := from.Read(buf)
	if err != nil {
		return nil, err
	}
	if n > maxMessage {
		return nil, errors.New("the message is too long")
	}
	return buf[:n], nil
}
