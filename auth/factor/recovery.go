package factor

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/threshold-access/threshold/internal/identity"
)

const (
	maxTyped          = 64 // bytes of what a user types
	recoveryCodeCount = 10 // how many a user gets
	recoveryBytes     = 10 // random bytes in a recovery code: 80 bits, 16 letters
)

// recoveryCode is a recovery code without separators, in capital letters. "" is none.
type recoveryCode string

var recoveryRE = regexp.MustCompile(`^[A-Z2-7]{16}$`)

// separators are what users type and apps show between the characters of a code.
var separators = strings.NewReplacer(" ", "", "-", "", "\t", "", "\u00a0", "", "\r", "", "\n", "")

// TypedCode returns the code that a user typed as the answer to a challenge, without separators and in
// capital letters. It returns "" if the body of the response is no JSON string, or too long.
func TypedCode(body json.RawMessage) string {
	var typed string
	if json.Unmarshal(body, &typed) != nil || len(typed) > maxTyped {
		return ""
	}
	return strings.ToUpper(separators.Replace(typed))
}

// parseRecoveryCode returns the recovery code in the body of a response, and "" if it has not that form.
func parseRecoveryCode(body json.RawMessage) recoveryCode {
	code := TypedCode(body)
	if !recoveryRE.MatchString(code) {
		return ""
	}
	return recoveryCode(code)
}

// newRecoveryCodes draws the recovery codes of a user, in the form that is shown and in the form that is
// stored.
func newRecoveryCodes(who identity.UserKey) (shown []string, stored [][]byte) {
	for range recoveryCodeCount {
		var b [recoveryBytes]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		text := base32.StdEncoding.EncodeToString(b[:])
		shown = append(shown, strings.Join([]string{text[:4], text[4:8], text[8:12], text[12:]}, "-"))
		stored = append(stored, hashRecoveryCode(who, recoveryCode(text)))
	}
	return shown, stored
}

// hashRecoveryCode returns the hash of a code and of its user: a code counts only for the user to whom it was
// given. Each part has its length in front, so that no two lists of parts have the same hash. A slow hash is
// not needed, because a code has 80 random bits.
func hashRecoveryCode(who identity.UserKey, code recoveryCode) []byte {
	h := sha256.New()
	h.Write([]byte("threshold recovery v1"))
	for _, part := range []string{who.Connector, who.Subject, string(code)} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// findRecoveryCode returns the index of the code's hash among the stored ones, and false for a code that is
// not there. It compares every stored hash, whichever one matches, so that the time it takes says nothing.
func findRecoveryCode(stored [][]byte, who identity.UserKey, code recoveryCode) (at int, ok bool) {
	want := hashRecoveryCode(who, code)
	for i, hash := range stored {
		if subtle.ConstantTimeCompare(want, hash) == 1 {
			at, ok = i, true
		}
	}
	return at, ok
}
