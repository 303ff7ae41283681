// Package netconf follows.
package netconf
