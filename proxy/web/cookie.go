package web

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
)

// Names of cookies. Browsers accept the prefix __Host- only for cookies of this host alone, over https,
// with the path "/".
const (
	attemptCookie  = "__Host-threshold-login" // the login attempt, sealed by the auth service
	confirmCookie  = "__Host-threshold-asked" // the attemptTag of the headless login that is confirmed
	languageCookie = "__Host-threshold-lang"  // the language that the user chose
)

// maxCookieBytes is the longest value that browsers store.
const maxCookieBytes = 4 << 10

func setCookie(w http.ResponseWriter, name, value string) {
	http.SetCookie(w, newCookie(name, value))
}

func dropCookies(w http.ResponseWriter, names ...string) {
	for _, name := range names {
		c := newCookie(name, "")
		c.MaxAge = -1
		http.SetCookie(w, c)
	}
}

// newCookie returns a cookie that scripts cannot read and that is sent only over https. Lax: the browser also
// sends it with the redirect from the provider, which is another site.
func newCookie(name, value string) *http.Cookie {
	return &http.Cookie{
		Name:     name,
		Value:    value,
		Path:     "/",
		Secure:   true,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	}
}

func readCookie(r *http.Request, name string) (string, bool) {
	c, err := r.Cookie(name)
	if err != nil || c.Value == "" || len(c.Value) > maxCookieBytes {
		return "", false
	}
	return c.Value, true
}

// attemptTag returns a short hash that identifies an attempt. Pages contain it in place of the attempt, which
// is a secret.
func attemptTag(attempt string) string {
	return base64.RawURLEncoding.EncodeToString(attemptDigest(attempt)[:12])
}

func attemptDigest(attempt string) []byte {
	sum := sha256.Sum256([]byte("threshold page v1\x00" + attempt))
	return sum[:]
}
