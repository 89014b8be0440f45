package totp

import (
	"context"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/internal/identity"
)

// Enrolment is a new secret that its first correct code will confirm. Until then it exists only in the sealed
// attempt in the user's browser.
type Enrolment struct {
	Secret string `json:"secret"` // base32, 160 bits
	URI    string `json:"-"`      // otpauth://, for the QR code
}

// OfferEnrolment returns a new enrolment for a user without a second factor, and nil without an error for one
// who has it. It stores nothing: Verify stores the enrolment with its first correct code.
func (s *Service) OfferEnrolment(ctx context.Context, who identity.Identity) (*Enrolment, error) {
	stored, err := s.store.Factor(ctx, who.UserKey())
	if err != nil || stored.Secret != "" {
		return nil, err
	}
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer:      s.issuer,
		AccountName: who.Name,
		Period:      period,
		SecretSize:  20, // bytes: the length of a SHA-1, as RFC 4226 section 4 recommends
		Digits:      otp.DigitsSix,
		Algorithm:   otp.AlgorithmSHA1,
	})
	if err != nil {
		return nil, totpSecretFailed.Wrap(err, "totp.OfferEnrolment")
	}
	return &Enrolment{Secret: key.Secret(), URI: key.String()}, nil
}
