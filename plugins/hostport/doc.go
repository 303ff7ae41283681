// Package hostport turns port mappings into nftables: doc follows.
package hostport
