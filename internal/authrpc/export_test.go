package authrpc

// ForwardedDigestForTest is what a proxy signs.
var ForwardedDigestForTest = forwardedDigest
