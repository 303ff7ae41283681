// Package redact takes the secrets out of documents that are shown to others, such as in what twillctl sysdump packs:
//
//	conflist, YAML ── Document ──► the same without values of keys that name a secret, without passwords in URLs, without PEM blocks
//	log lines ─────── Text ──────► the same without passwords in URLs
//
// It goes by structure: a document is parsed, and written anew from what was understood, so that comments are gone. One that cannot be parsed is not
// shown at all. It is the second line of defence: Twill's own documents have secrets in files of their own, of which only the names are shown.
package redact
