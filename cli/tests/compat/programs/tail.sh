echo '// last' >last
exec tail -n 1 -s 0.1 -F restored.ts file*.ts sentinel*.ts last
