package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// ErrHelp is returned by Load when help was asked for.
var ErrHelp = errors.New("help was asked for")

const fileKey = "config"

// Inputs are where a configuration can come from.
type Inputs struct {
	Args     []string // without the program's name
	Environ  []string // as os.Environ returns it
	HostName string   // the node name when none is given
	ReadFile func(name string) ([]byte, error)
}

// FromProcess returns the inputs of the running process.
func FromProcess(args []string) (Inputs, error) {
	host, err := os.Hostname()
	if err != nil {
		return Inputs{}, fmt.Errorf("read host name: %w", err)
	}
	return Inputs{Args: args, Environ: os.Environ(), HostName: host, ReadFile: os.ReadFile}, nil
}

// setting is a value and the place where it was given.
type setting struct {
	value, source string
}

// Load reads, merges and checks the configuration. The error joins everything that is wrong with it, a line each; it is ErrHelp when
// --help was given.
func Load(in Inputs) (*Config, error) {
	table := keys()
	fromFlags, err := readFlags(table, in.Args)
	if err != nil {
		return nil, err
	}
	fromEnv := readEnv(table, in.Environ)
	sources := []map[string]setting{fromFlags, fromEnv}

	var fileErr error
	if file := first(fileKey, sources).value; file != "" {
		var fromFile map[string]setting
		fromFile, fileErr = readFile(table, file, in.ReadFile)
		sources = append(sources, fromFile)
	}
	sources = append(sources, map[string]setting{"node-name": {strings.ToLower(in.HostName), "host name"}}, fallbacks(table))

	c, err := build(table, sources)
	if err := errors.Join(fileErr, err); err != nil {
		return nil, err
	}
	return c, nil
}

// first returns the key's setting in the first source that has one.
func first(name string, sources []map[string]setting) setting {
	for _, source := range sources {
		if s, ok := source[name]; ok {
			return s
		}
	}
	return setting{}
}

func readFlags(table []key, args []string) (map[string]setting, error) {
	set := flagSet(table)
	set.Usage = func() {}
	if err := set.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil, ErrHelp
	} else if err != nil {
		return nil, fmt.Errorf("%w; see twilld --help", err)
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: twilld takes flags only; see twilld --help", set.Arg(0))
	}
	given := map[string]setting{}
	set.Visit(func(f *pflag.Flag) {
		given[f.Name] = setting{f.Value.String(), "flag --" + f.Name}
	})
	return given, nil
}

func flagSet(table []key) *pflag.FlagSet {
	set := pflag.NewFlagSet("twilld", pflag.ContinueOnError)
	set.SortFlags = false
	set.String(fileKey, "", "YAML file with any of the settings below, named like the flags (env TWILLD_CONFIG)")
	for _, k := range table {
		set.String(k.name, k.shownDefault(), k.usage)
		if k.isSwitch {
			set.Lookup(k.name).NoOptDefVal = "true"
		}
	}
	return set
}

// Usage returns the text for --help.
func Usage() string {
	return "twilld is Twill's node daemon.\n\nUsage: twilld [flags]\n\n" +
		"Every flag can also be set as environment variable TWILLD_<NAME> or as a key of the file; a flag beats the\n" +
		"environment, which beats the file.\n\n" + flagSet(keys()).FlagUsagesWrapped(120)
}

func readEnv(table []key, environ []string) map[string]setting {
	names := map[string]string{"TWILLD_CONFIG": fileKey}
	for _, k := range table {
		if !k.flagOnly {
			names[k.env()] = k.name
		}
	}
	given := map[string]setting{}
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		if name, ok := names[variable]; ok {
			given[name] = setting{value, "env " + variable}
		}
	}
	return given
}

func readFile(table []key, file string, read func(string) ([]byte, error)) (map[string]setting, error) {
	data, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	given, err := parseYAML(table, data)
	for name, s := range given {
		s.source = fmt.Sprintf("file %s key %s", file, name)
		given[name] = s
	}
	if err != nil {
		return given, fmt.Errorf("file %s: %w", file, err)
	}
	return given, nil
}

// parseYAML reads a flat mapping of keys to scalars, or to lists of scalars, which are joined by commas.
func parseYAML(table []key, data []byte) (map[string]setting, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	if err := dec.Decode(&object); err != nil {
		return nil, errors.New("want a mapping of keys to values, such as `iface: eth0`")
	}
	known := map[string]bool{}
	for _, k := range table {
		known[k.name] = !k.flagOnly
	}
	given := map[string]setting{}
	var errs []error
	for name, v := range object {
		allowed, exists := known[name]
		value, err := scalar(v)
		switch {
		case !exists:
			errs = append(errs, fmt.Errorf("key %s is unknown; see docs/configuration.md", name))
		case !allowed:
			errs = append(errs, fmt.Errorf("key %s is a flag only: it asks for one run, not for a setting", name))
		case err != nil:
			errs = append(errs, fmt.Errorf("key %s %w", name, err))
		default:
			given[name] = setting{value: value}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return given, errors.Join(errs...)
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, json.Number:
		return fmt.Sprint(v), nil
	case nil:
		return "", errors.New(`has no value: remove it, or write "" for an empty one`)
	case []any:
		var parts []string
		for _, e := range v {
			part, err := scalar(e)
			if _, nested := e.([]any); nested || err != nil {
				return "", errors.New("is no list of plain values")
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("is a mapping; want a plain value")
}

func fallbacks(table []key) map[string]setting {
	given := map[string]setting{}
	for _, k := range table {
		given[k.name] = setting{k.fallback, "default of " + k.name}
	}
	return given
}

// build parses each key's setting and checks them together.
func build(table []key, sources []map[string]setting) (*Config, error) {
	c := &Config{}
	var errs []error
	for _, k := range table {
		s := first(k.name, sources)
		if err := k.parse(c, s.value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.source, err))
		}
		if k.secret {
			s.value = Secret(s.value).String()
		}
		if !k.flagOnly {
			c.Settings = append(c.Settings, Setting{k.name, s.value, s.source})
		}
	}
	errs = append(errs, together(c, sources))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// together checks what several keys say at once.
func together(c *Config, sources []map[string]setting) error {
	var errs []error
	conflict := func(one, other, why string) {
		errs = append(errs, fmt.Errorf("%s and %s: %s", first(one, sources).source, first(other, sources).source, why))
	}
	if c.Iface != "" && c.IfaceRegex != nil {
		conflict("iface", "iface-regex", "give one of them")
	}
	switch {
	case c.Install && c.Cleanup:
		conflict("install", "cleanup", "give one of them")
	case c.Install && c.CNIBinDir == "":
		conflict("install", "cni-bin-dir", "there is no directory to install into")
	}
	switch {
	case c.DNS == "on" && c.Datastore == "kube":
		conflict("dns", "datastore", "in a Kubernetes cluster CoreDNS answers")
	case c.DNS == "on" && c.Kubeconfig != "":
		conflict("dns", "kubeconfig", "Services are those of a Kubernetes cluster, where CoreDNS answers")
	}
	if (c.EtcdCertFile == "") != (c.EtcdKeyFile == "") {
		conflict("etcd-certfile", "etcd-keyfile", "give both or none")
	}
	switch {
	case c.EtcdPassword != "" && c.EtcdPasswordFile != "":
		conflict("etcd-password", "etcd-password-file", "give one of them")
	case c.EtcdUsername == "" && c.EtcdPassword != "":
		conflict("etcd-username", "etcd-password", "a password needs a user name")
	case c.EtcdUsername == "" && c.EtcdPasswordFile != "":
		conflict("etcd-username", "etcd-password-file", "a password needs a user name")
	case c.EtcdUsername != "" && c.EtcdPassword == "" && c.EtcdPasswordFile == "":
		conflict("etcd-username", "etcd-password-file", "a user name needs a password")
	}
	if tls := c.EtcdCAFile != "" || c.EtcdCertFile != ""; tls {
		for _, e := range c.EtcdEndpoints {
			if strings.HasPrefix(e, "http://") {
				errs = append(errs, fmt.Errorf("%s: %s is not https, but TLS files are given", first("etcd-endpoints", sources).source, e))
			}
		}
	}
	return errors.Join(errs...)
}
