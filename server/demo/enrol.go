package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/internal/formbrowser"
)

// unusedCallback is the callback address of the enrolments. No tsh listens there: an enrolment stops before
// the browser would go to it.
const unusedCallback = "http://127.0.0.1:1/callback"

// enrolUsers goes through a first login for each user, as a browser would, and so enrols a second factor. The
// demo then knows the secrets, from which it prints codes. A user who was enrolled in an earlier run is
// skipped.
func (c *cluster) enrolUsers(ctx context.Context) error {
	for i := range c.state.Users {
		if user := &c.state.Users[i]; !user.Enrolled {
			if err := c.enrol(ctx, user); err != nil {
				return fmt.Errorf("enrol %s: %w", user.Email, err)
			}
		}
	}
	return nil
}

// enrol goes through the first login of one user and saves the TOTP secret. If an earlier run was killed
// after the code was sent, the cluster has the factor already and shows no secret; then the secret of that
// run is right.
func (c *cluster) enrol(ctx context.Context, user *account) error {
	// A challenge is the hash of keys. Nobody has keys with this hash, so no certificate can be got with this
	// login.
	challenge := strings.Repeat("A", 43)
	address := fmt.Sprintf("https://%s/login?challenge=%s&state=enrolment-of-demo&callback=%s",
		c.public, challenge, unusedCallback)
	page, err := formbrowser.New(c.roots(), unusedCallback).Open(ctx, address)
	if err != nil {
		return err
	}
	form := map[string]string{"login": user.Email, "password": user.Password}
	if page, err = page.Submit(ctx, form); err != nil {
		return err
	}
	if secret := page.ByID("secret"); secret != "" {
		// Saved before the code is sent: the cluster must never know a secret that the demo has lost.
		user.TOTPSecret = strings.ReplaceAll(secret, " ", "")
		if err := c.state.save(); err != nil {
			return err
		}
		if err := proveEnrolment(ctx, page, user); err != nil {
			return err
		}
	} else if !page.HasField("code") {
		return fmt.Errorf("unexpected page: %s", page.Text())
	}
	user.Enrolled = true
	return c.state.save()
}

// proveEnrolment sends a code to the page and returns nil if it is accepted. It is the code of the time step
// before the current one: a code is accepted only once, and the user may want to log in at once with the
// current code, which the demo shows.
func proveEnrolment(ctx context.Context, page *formbrowser.Page, user *account) error {
	// The cluster accepts codes that are one step old. If a new step begins before the code arrives, the code
	// is two steps old and refused; the second try is right.
	for range 2 {
		code, err := totp.GenerateCode(user.TOTPSecret, time.Now().Add(-codeStep))
		if err != nil {
			return err
		}
		if page, err = page.Submit(ctx, map[string]string{"code": code}); err != nil {
			return err
		}
		if accepted := !page.HasField("code"); accepted {
			return nil
		}
	}
	return fmt.Errorf("the code was refused: %s", page.Text())
}
