package peertest

import (
	"os"
	"testing"
)

// At returns the host that a network namespace is which somebody else made, such as /run/netns/NAME. It has no Port.
func At(t testing.TB, namespace string) *Host {
	t.Helper()
	file, err := os.Open(namespace)
	must(t, "open network namespace", err)
	t.Cleanup(func() { must(t, "close network namespace", file.Close()) })
	return &Host{t: t, Namespace: namespace, file: file}
}
