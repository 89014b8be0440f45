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

// Cookies. The __Host- prefix makes browsers hold them to this host, to https and to the whole site.
const (
	attemptCookie  = "__Host-threshold-login" // auth's sealed attempt
	screenCookie   = "__Host-threshold-page"  // screen, sealed here
	confirmCookie  = "__Host-threshold-asked" // attemptTag the headless login that this browser was asked about
	languageCookie = "__Host-threshold-lang"
	maxCookieBytes = 4 << 10 // what browsers keep
)

func setCookie(w http.ResponseWriter, name, value string) {
	http.SetCookie(
		w,
		&http.Cookie{
			Name:     name,
			Value:    value,
			Path:     "/",
			Secure:   true,
			HttpOnly: true,
			SameSite: http.SameSiteLaxMode,
		},
	)
}

func dropCookies(w http.ResponseWriter, names ...string) {
	for _, name := range names {
		http.SetCookie(
			w,
			&http.Cookie{
				Name:     name,
				Path:     "/",
				Secure:   true,
				HttpOnly: true,
				SameSite: http.SameSiteLaxMode,
				MaxAge:   -1,
			},
		)
	}
}

func readCookie(r *http.Request, name string) (string, bool) {
	c, err := r.Cookie(name)
	if err != nil || c.Value == "" || len(c.Value) > maxCookieBytes {
		return "", false
	}
	return c.Value, true
}

// screen is what the factor page shows. Auth tells it once; a reload shows it again.
type screen struct {
	Name     string             `json:"name"`
	Enrol    *authrpc.Enrolment `json:"enrol,omitempty"`
	Headless *authrpc.Headless  `json:"headless,omitempty"`
	Expires  time.Time          `json:"expires"`
}

// sealer keeps screens from being read or made by anyone else, a browser's owner included. Its key dies with
// the process.
type sealer struct{ aead cipher.AEAD }

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

// seal binds the screen to the attempt it belongs to.
func (s sealer) seal(v screen, attempt string) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, attemptDigest(attempt))), nil
}

func (s sealer) open(text, attempt string) (v screen, err error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return v, errors.New("the page's cookie is not ours")
	}
	plain, err := s.aead.Open(nil, nil, sealed, attemptDigest(attempt))
	if err != nil {
		return v, errors.New("the page's cookie is not ours")
	}
	return v, json.Unmarshal(plain, &v)
}

// attemptTag names an attempt in its page's form, and tells nothing of it.
func attemptTag(attempt string) string {
	return base64.RawURLEncoding.EncodeToString(attemptDigest(attempt)[:12])
}

func attemptDigest(attempt string) []byte {
	sum := sha256.Sum256([]byte("threshold page v1\x00" + attempt))
	return sum[:]
}
