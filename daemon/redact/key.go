package redact

import (
	"slices"
	"strings"
	"unicode"
)

var (
	secretWords = []string{"password", "passwd", "passphrase", "secret", "token", "credential", "auth", "psk", "certificate-data", "authority-data", "keydata", "bearer", "cookie"}
	secretEnds  = []string{"key", "keys", "pass", "pwd"}              // of a word, lest keepalive or passthrough be one
	placeWords  = []string{"file", "path", "dir", "name", "filename"} // a key whose last word is one says where a secret is, not what
)

// isSecret reports whether a key's value is to be hidden. Rather one too many: nobody misses the value of an unknown key that has such a name.
func isSecret(key string) bool {
	all := words(key)
	if len(all) == 0 || isPlace(all[len(all)-1]) {
		return false
	}
	for _, spelling := range []string{strings.ToLower(key), strings.Join(all, "-")} { // toKen is a token, certificateData is certificate-data
		if slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(spelling, word) }) {
			return true
		}
	}
	return slices.ContainsFunc(all, func(word string) bool { return endsIn(word, secretEnds) })
}

// isPlace reports whether a word is file, or one such as keyfile. A profile is none.
func isPlace(word string) bool {
	return slices.ContainsFunc(placeWords, func(place string) bool {
		of, ok := strings.CutSuffix(word, place)
		return ok && (of == "" || endsIn(of, secretEnds) || endsIn(of, secretWords))
	})
}

func endsIn(word string, ends []string) bool {
	return slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(word, end) })
}

// words returns the words of a key in lower case: apiKey2, api_key and APIKey have the same two. What is no letter separates.
func words(key string) []string {
	var all []string
	letters := []rune(key)
	start := 0
	for i := range len(letters) + 1 {
		if i < len(letters) && unicode.IsLetter(letters[i]) && (i == start || !startsWord(letters, i)) {
			continue
		}
		if i > start {
			all = append(all, strings.ToLower(string(letters[start:i])))
		}
		if start = i; i < len(letters) && !unicode.IsLetter(letters[i]) {
			start++
		}
	}
	return all
}

// startsWord reports whether the letter at i, behind another one, is the first of a word: the K of apiKey, and of APIKey.
func startsWord(letters []rune, i int) bool {
	if !unicode.IsUpper(letters[i]) {
		return false
	}
	return !unicode.IsUpper(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1])
}
