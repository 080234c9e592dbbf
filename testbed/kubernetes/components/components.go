//go:build components

// Package components names the programs that a control plane is made of, so that go.mod and go.sum hold all they
// need. It is never compiled: the tag keeps it out of every build, and `go mod tidy` reads it all the same.
package components

import (
	_ "github.com/coredns/coredns"
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
