// Package config is twilld's configuration: one table of keys (keys.go), from which the flags, the environment variables, the YAML
// file's keys, the checks, the usage text and the table in docs/configuration.md all come.
//
//	--iface eth0  >  TWILLD_IFACE=eth0  >  iface: eth0 in --config FILE  >  default
//
// Each value passes through its key's parser, wherever it came from; what is wrong is reported all at once, each error with
// the place to mend it: `env TWILLD_PUBLIC_IP: "10.0.0" is no IPv4 address`. The Config that Load returns is never changed
// afterwards.
package config
