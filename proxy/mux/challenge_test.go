package mux

import "testing"

// An ACME authority offers acme-tls/1 and no other name (RFC 8737 section 3).
func TestTheACMEChallengeNeedsItsALPNNameAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		offered []string
		want    string
		refused bool
	}{
		{[]string{"acme-tls/1"}, "acme-tls/1", false},
		{[]string{"acme-tls/1", "h2"}, "", false},
		{[]string{"h2", "acme-tls/1"}, "", false},
		{[]string{"acme-tls/1", "threshold-auth"}, "", true},
		{[]string{"ACME-TLS/1"}, "", false},
		{nil, "", false},
	} {
		got, err := chooseProtocol(tt.offered)
		if got != tt.want || (err != nil) != tt.refused {
			t.Errorf("%q: got %q, %v, want %q", tt.offered, got, err, tt.want)
		}
	}
}
