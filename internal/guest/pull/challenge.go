// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"errors"
	"fmt"
	"strings"
)

// challenge is what a registry wants to see before it answers.
type challenge struct {
	scheme         string // "basic" or "bearer"
	realm, service string
}

// parseChallenge parses a WWW-Authenticate header with one challenge (RFC 9110 §11.6.1). Its scope is left aside: we
// know what we want.
func parseChallenge(header string) (challenge, error) {
	if len(header) > maxChallenge {
		return challenge{}, fmt.Errorf("a challenge of %d bytes, more than %d", len(header), maxChallenge)
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	c := challenge{scheme: strings.ToLower(scheme)}
	switch c.scheme {
	case "basic":
		return c, nil
	case "bearer":
	default:
		return challenge{}, fmt.Errorf("the registry wants authorization of the kind %q, which is not known here", scheme)
	}
	for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return challenge{}, errors.New("a challenge with a parameter that has no value")
		}
		var value string
		var err error
		if value, rest, err = parameterValue(after); err != nil {
			return challenge{}, err
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "realm":
			c.realm = value
		case "service":
			c.service = value
		}
	}
	if c.realm == "" {
		return challenge{}, errors.New("a challenge that does not say where to get a token")
	}
	return c, nil
}

// parameterValue reads a token or a quoted string (RFC 9110 §5.6.4), and returns what follows it.
func parameterValue(text string) (value, rest string, err error) {
	text = strings.TrimLeft(text, " ")
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ", ")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), text[i+1:], nil
		case '\\':
			if i++; i == len(text) {
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return "", "", errors.New("a challenge with a quoted string that does not end")
}
