// SPDX-License-Identifier: Apache-2.0

package aa

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// longestLife bounds how long a token is kept, whatever it says.
const longestLife = 24 * time.Hour

// times reads a compact JWS's times of issue and expiry (RFC 7519 §4.1), the zero time for what it does not say. Its
// signature is the business of those who release secrets for it; we have it from the broker himself.
func times(token string) (issued, expires time.Time) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return issued, expires
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return issued, expires
	}
	var claims struct {
		IssuedAt  *float64 `json:"iat"`
		ExpiresAt *float64 `json:"exp"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return issued, expires
	}
	return date(claims.IssuedAt), date(claims.ExpiresAt)
}

// date is a NumericDate: seconds since 1970, until the year 9999.
func date(seconds *float64) time.Time {
	if seconds == nil || !(*seconds > 0 && *seconds < 253402300800) {
		return time.Time{}
	}
	return time.Unix(int64(*seconds), 0)
}

// life is how long a token may be used from when it was asked for. Both of its ends are the broker's own clock's;
// 0 is for one that does not say.
func life(issued, expires time.Time) time.Duration {
	if issued.IsZero() || !expires.After(issued) {
		return 0
	}
	whole := min(expires.Sub(issued), longestLife)
	// It is renewed early: what is asked for with it must arrive before it expires.
	return whole - min(whole/10, 30*time.Second)
}
