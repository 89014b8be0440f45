package ca_test

import (
	"context"
	"testing"
	"time"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
)

// discard commits nothing, so that only the CA is measured.
func discard(context.Context, []ca.Record) error { return nil }

func bench(b *testing.B, r ca.Request) {
	c, err := ca.New(ca.Config{
		Cluster: cluster,
		Keys:    keyringtest.New(b, cluster, createdAt),
		Now:     func() time.Time { return testNow },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		prepared, err := c.Prepare(r)
		if err == nil {
			_, err = prepared.Release(b.Context(), discard)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certs/s")
}

func BenchmarkIssueUserSSH(b *testing.B) {
	r := userRequest(b)
	r.X509Key = nil
	bench(b, r)
}

func BenchmarkIssueUserX509(b *testing.B) {
	r := userRequest(b)
	r.SSHKey = nil
	bench(b, r)
}

func BenchmarkIssueUserBoth(b *testing.B) { bench(b, userRequest(b)) }
func BenchmarkIssueHost(b *testing.B)     { bench(b, hostRequest(b)) }
func BenchmarkIssueService(b *testing.B)  { bench(b, serviceRequest(b)) }
