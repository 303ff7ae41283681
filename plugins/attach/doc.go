// Package attach follows.
package attach
