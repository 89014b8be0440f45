package web

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// Names of cookies. Browsers accept the prefix __Host- only for cookies of this host alone, over https,
// with the path "/".
const (
	attemptCookie  = "__Host-threshold-login" // the login attempt, sealed by the auth service
	screenCookie   = "__Host-threshold-page"  // a screen, sealed by this process
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

// screen is what the factor page shows. The auth service sends it only once, so the screenCookie keeps it for
// the browser to reload the page.
type screen struct {
	Name     string             `json:"name"`
	Enrol    *authrpc.Enrolment `json:"enrol,omitempty"`
	Headless *authrpc.Headless  `json:"headless,omitempty"`
	Expires  time.Time          `json:"expires"`
}

// sealer encrypts and authenticates screens with AES-256-GCM, because a screen may contain the secret of a
// new second factor: the browser can neither read nor forge the cookie. The key exists only in this process.
type sealer struct{ aead cipher.AEAD }

// newSealer returns a sealer with a new random key.
func newSealer() sealer {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // crypto/rand never fails since Go 1.24
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("web: AES-256 refused a key of 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("web: GCM: " + err.Error())
	}
	return sealer{aead}
}

// seal encrypts a screen into the value of a cookie. open accepts it only together with the same attempt.
func (s sealer) seal(shown screen, attempt string) (string, error) {
	plain, err := json.Marshal(shown)
	if err != nil {
		return "", err
	}
	sealed := s.aead.Seal(nil, nil, plain, attemptDigest(attempt))
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// open decrypts the value of a cookie. It returns an error if the value was not sealed by this process for
// this attempt.
func (s sealer) open(text, attempt string) (shown screen, err error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return shown, errors.New("the cookie of the page is not base64")
	}
	plain, err := s.aead.Open(nil, nil, sealed, attemptDigest(attempt))
	if err != nil {
		return shown, errors.New("the cookie of the page was not sealed by this process for this attempt")
	}
	return shown, json.Unmarshal(plain, &shown)
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
