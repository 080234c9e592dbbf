package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// One authority a cluster signs for servers and clients alike; it lives as long as the folder.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	folder      string
	serial      int64
}

// makeKeys writes the cluster's authority, the certificates of its parts and the administrator's kubeconfig.
func makeKeys(s settings) error {
	ca, err := newAuthority(s.folder)
	if err != nil {
		return err
	}
	node := net.ParseIP(s.address)
	local := net.ParseIP("127.0.0.1")
	servers := []struct {
		name string
		dns  []string
		ips  []net.IP
	}{
		{"apiserver", []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			[]net.IP{node, local, net.ParseIP(kubernetesIP)}},
		{"kubelet", []string{s.name}, []net.IP{node, local}},
	}
	for _, server := range servers {
		if err := ca.issue(server.name, pkix.Name{CommonName: server.name}, server.dns, server.ips); err != nil {
			return err
		}
	}
	// Everything of the control plane is the same administrator: what is tested are the rights of others.
	admin := pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}
	if err := ca.issue("admin", admin, nil, nil); err != nil {
		return err
	}
	if err := serviceAccountKey(s.folder); err != nil {
		return err
	}
	return clientcmd.WriteToFile(kubeconfig(s), filepath.Join(s.folder, "kubeconfig"))
}

func newAuthority(folder string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "testbed"},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	ca := &authority{certificate: certificate, key: key, folder: folder, serial: 1}
	return ca, writePEM(filepath.Join(folder, "ca.crt"), "CERTIFICATE", raw)
}

func (ca *authority) issue(file string, subject pkix.Name, dns []string, ips []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial),
		Subject:      subject,
		NotBefore:    ca.certificate.NotBefore,
		NotAfter:     ca.certificate.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     dns,
		IPAddresses:  ips,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(ca.folder, file+".crt"), "CERTIFICATE", raw); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(ca.folder, file+".key"), "PRIVATE KEY", der)
}

func serviceAccountKey(folder string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(folder, "accounts.key"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func kubeconfig(s settings) api.Config {
	path := func(name string) string { return filepath.Join(s.folder, name) }
	config := *api.NewConfig()
	config.Clusters[s.name] = &api.Cluster{
		Server: "https://" + s.address + ":6443", CertificateAuthority: path("ca.crt"),
	}
	config.AuthInfos["admin"] = &api.AuthInfo{
		ClientCertificate: path("admin.crt"), ClientKey: path("admin.key"),
	}
	config.Contexts[s.name] = &api.Context{Cluster: s.name, AuthInfo: "admin"}
	config.CurrentContext = s.name
	return config
}
