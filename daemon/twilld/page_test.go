//go:build linux

package main

import (
	"net"
	"strings"
	"testing"
)

// Somebody else has the web page's port: the node works without the page, which is there once the port is free.
func TestPortOfThePageIsTaken(t *testing.T) {
	const address = "127.0.0.1:10280"
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	var taken net.Listener
	a.do(func() (err error) {
		taken, err = net.Listen("tcp", address)
		return err
	})
	defer taken.Close()
	a.start("--page=10280")
	a.eventuallyReady()
	c.eventually("the log names the address", func() string {
		if log := a.log.String(); !strings.Contains(log, address+": bind: address already in use") {
			return log
		}
		return ""
	})
	must(t, taken.Close())
	c.eventually("the page is served", func() string {
		if code, body := a.getFrom(address, "/data/status"); code != 200 {
			return body
		}
		return ""
	})
	if log := a.log.String(); strings.Count(log, "address already in use") != 1 {
		t.Errorf("it is not told once:\n%s", log)
	}
}
