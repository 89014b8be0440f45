// Package catest issues certificates for the tests of other packages, without a store for their records.
package catest

import (
	"context"
	"testing"

	"github.com/threshold-access/threshold/ca"
)

// Issue returns the certificates of one request.
func Issue(t testing.TB, c *ca.CA, r ca.Request) ca.Issued {
	t.Helper()
	prepared, err := c.Prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := prepared.Release(t.Context(), func(context.Context, []ca.Record) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return issued[0]
}
