package raftstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// BenchmarkCommit measures durable commits of 256 bytes each, one replica, by the number of concurrent
// writers.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(writers, "writers"), func(b *testing.B) {
			s := raftstoretest.Open(b)
			value := make([]byte, 256)
			ctx := testContext(b)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					key := fmt.Sprint("k", w)
					for left.Add(-1) >= 0 {
						if _, err := s.Commit(ctx, writes(raftstore.Put(key, value))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
