package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/ctl/probe"
)

// mostPatience is for how long a question may wait, whatever it says.
const mostPatience = 10 * time.Minute

// Answer says hello, and answers questions from inside a place until in ends. It returns when all are answered, or ctx has ended.
func Answer(ctx context.Context, from probe.Place, hello Hello, in io.Reader, out io.Writer) error {
	var mu sync.Mutex // of out
	var failed error
	say := func(a answer) {
		line, err := json.Marshal(a)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		if failed == nil {
			failed = err
		}
	}
	say(answer{Hello: &hello})
	var asking sync.WaitGroup
	free := make(chan struct{}, atOnce)
	lines := newScanner(in)
	var err error
	for lines.Scan() {
		var q question
		if err = json.Unmarshal(lines.Bytes(), &q); err != nil {
			break
		}
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			say(answer{ID: q.ID, Answer: q.Question.Ask(ctx, from, min(q.Patience, mostPatience))})
		})
	}
	asking.Wait()
	if err == nil {
		err = lines.Err()
	}
	if err != nil {
		return fmt.Errorf("read a question: %w", err)
	}
	return failed
}

// Introduce reads what the pod that the process is in says of itself. resolvConf is the name of its resolv.conf.
func Introduce(resolvConf string) (Hello, error) {
	var h Hello
	links, err := net.Interfaces()
	if err != nil {
		return h, fmt.Errorf("list the pod's links: %w", err)
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			return h, fmt.Errorf("list the addresses of %s: %w", link.Name, err)
		}
		if h.add(link, addrs) && (h.MTU == 0 || link.MTU < h.MTU) {
			h.MTU = link.MTU
		}
	}
	file, err := os.Open(resolvConf)
	if err != nil {
		return h, err
	}
	defer file.Close() // it was only read
	text, err := io.ReadAll(io.LimitReader(file, longest))
	if err != nil {
		return h, err
	}
	h.NameServers, h.Search = parseResolvConf(string(text))
	return h, nil
}

// add adds a link's global addresses, and reports whether it has any.
func (h *Hello) add(link net.Interface, addrs []net.Addr) bool {
	has := false
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		if a := prefix.Addr().Unmap(); err == nil && link.Flags&net.FlagLoopback == 0 && a.IsGlobalUnicast() {
			h.Addresses, has = append(h.Addresses, a), true
		}
	}
	return has
}

// parseResolvConf returns the name servers and the search list of a resolv.conf(5); the last search list counts. What cannot be read is passed over, as resolvers do.
func parseResolvConf(text string) (servers []netip.Addr, search []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				servers = append(servers, a.Unmap())
			}
		case "search":
			search = fields[1:]
		}
	}
	return servers, search
}
