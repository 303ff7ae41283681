package ipam

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// DNS is the "dns" object of a CNI result.
type DNS struct {
	Nameservers []string
	Domain      string
	Search      []string
	Options     []string
}

// ParseResolvConf reads the keywords nameserver, domain, search and options of resolv.conf(5). As there, the last search list
// and the last domain count, while options add up. Other keywords, and keywords without a value, are skipped.
func ParseResolvConf(r io.Reader) (DNS, error) {
	var dns DNS
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.ContainsAny(fields[0][:1], "#;") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = fields[1:]
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	if err := lines.Err(); err != nil {
		return DNS{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	return dns, nil
}
