// Package dnat turns what Services mean on this node into an nftables table.
package dnat
