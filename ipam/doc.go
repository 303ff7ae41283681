// Package ipam holds the words and rules of address management: configuration, ranges, leases.
package ipam
