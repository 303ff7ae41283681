package overlay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultVNI = 1
	maxVNI     = 1<<24 - 1 // RFC 7348, section 5: the identifier has 24 bits
	maxPort    = 1<<16 - 1
	maxMTU     = 1<<16 - 1
	maxName    = 15 // IFNAMSIZ-1
)

// Config is the VXLAN part of the cluster's network configuration.
type Config struct {
	VNI           uint32
	Port          uint16 // UDP; 0 is the kernel's default, 8472
	MTU           int    // bytes of a packet on the uplink, encapsulation included; 0 is the uplink's own MTU
	GBP           bool   // carry group policy marks (draft-smith-vxlan-group-policy)
	Learning      bool   // learn addresses from the wire
	DirectRouting bool   // plain routes to peers on the uplink's own network
}

// keys are the names in a Backend object that mean something, to flannel at least: Name and MacPrefix are for Windows nodes.
func keys(c *Config) map[string]func(json.RawMessage) error {
	return map[string]func(json.RawMessage) error{
		"Type":          func(json.RawMessage) error { return nil },
		"Name":          func(json.RawMessage) error { return nil },
		"MacPrefix":     func(json.RawMessage) error { return nil },
		"VNI":           number(1, maxVNI, &c.VNI),
		"Port":          number(0, maxPort, &c.Port),
		"MTU":           number(0, maxMTU, &c.MTU),
		"GBP":           boolean(&c.GBP),
		"Learning":      boolean(&c.Learning),
		"DirectRouting": boolean(&c.DirectRouting),
	}
}

// ParseConfig reads the Backend object of the network configuration. Like flannel it takes keys in upper and lower case and
// fills in defaults; unlike flannel it refuses keys that it does not know and values out of range. The error names every
// key that is wrong.
func ParseConfig(backend json.RawMessage) (Config, error) {
	c := Config{VNI: defaultVNI}
	if len(bytes.TrimSpace(backend)) == 0 {
		return c, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(backend, &object); err != nil {
		return Config{}, fmt.Errorf("network configuration: Backend is no JSON object: %w", err)
	}
	known := keys(&c)
	seen := map[string]string{}
	var errs []error
	for _, key := range sortedKeys(object) {
		name, ok := canonical(known, key)
		switch first, twice := seen[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("network configuration: Backend.%s: unknown key; known are %s", key, strings.Join(sortedKeys(known), ", ")))
			continue
		case twice:
			errs = append(errs, fmt.Errorf("network configuration: Backend.%s: given twice, also as %s", key, first))
			continue
		}
		seen[name] = key
		if value := bytes.TrimSpace(object[key]); !bytes.Equal(value, []byte("null")) {
			if err := known[name](value); err != nil {
				errs = append(errs, fmt.Errorf("network configuration: Backend.%s: %w", key, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	return c, nil
}

func canonical(known map[string]func(json.RawMessage) error, key string) (string, bool) {
	for name := range known {
		if strings.EqualFold(name, key) {
			return name, true
		}
	}
	return "", false
}

func number[T ~int | ~uint16 | ~uint32](least, most uint64, to *T) func(json.RawMessage) error {
	return func(value json.RawMessage) error {
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil || n < least || n > most {
			return fmt.Errorf("want an integer from %d to %d, have %s", least, most, value)
		}
		*to = T(n)
		return nil
	}
}

func boolean(to *bool) func(json.RawMessage) error {
	return func(value json.RawMessage) error {
		switch string(value) {
		case "true":
			*to = true
		case "false":
			*to = false
		default:
			return fmt.Errorf("want true or false, have %s", value)
		}
		return nil
	}
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
